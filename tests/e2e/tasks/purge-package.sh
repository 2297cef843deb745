## cron is not wanted here: timers do its work
apt-get -q -y purge cron

## nor what came with it
apt-get -q -y autoremove --purge
