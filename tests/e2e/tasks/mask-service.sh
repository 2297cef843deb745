## cron is not needed, and nothing may start it
systemctl disable --now cron
systemctl mask cron

## the agent's port neither
systemctl mask systemd-timesyncd.service || true
systemctl is-enabled cron || true
