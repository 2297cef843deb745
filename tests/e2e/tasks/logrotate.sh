## install logrotate
apt-get -q -y install logrotate

## the application's log folder
useradd --system --no-create-home --shell /usr/sbin/nologin shop
install -d -o shop -g adm -m 0750 /srv/shop/log

## rotate it
cat >/etc/logrotate.d/shop <<'EOF'
/srv/shop/log/*.log {
    weekly
    rotate 8
    compress
    delaycompress
    missingok
    notifempty
    create 0640 shop adm
}
EOF

## dry run
logrotate --debug /etc/logrotate.d/shop
