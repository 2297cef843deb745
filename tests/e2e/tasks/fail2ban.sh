## install fail2ban and what reads the journal
apt-get -q -y install fail2ban python3-systemd

## jails
cat >/etc/fail2ban/jail.local <<'EOF'
[DEFAULT]
bantime = 1h
findtime = 10m
maxretry = 4
backend = systemd

[sshd]
enabled = true
EOF

## restart and look
systemctl restart fail2ban
sleep 2
fail2ban-client status
