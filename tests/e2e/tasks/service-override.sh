## limits for cron
mkdir -p /etc/systemd/system/cron.service.d
cat >/etc/systemd/system/cron.service.d/limits.conf <<'EOF'
[Service]
MemoryMax=128M
Nice=5
EOF

## and for every user session
install -D -m 0644 /dev/stdin /etc/systemd/system.conf.d/limits.conf <<'EOF'
[Manager]
DefaultLimitNOFILE=65536
EOF

## take effect
systemctl daemon-reload
systemctl restart cron
systemctl show cron -p MemoryMax
