## root's own table
( crontab -l 2>/dev/null; echo '15 3 * * * /usr/local/bin/clean-tmp' ) | crontab -

## the program
printf '#!/bin/sh\nfind /tmp -mindepth 1 -mtime +7 -delete\n' >/usr/local/bin/clean-tmp
chmod +x /usr/local/bin/clean-tmp

## the system's tables
cat >/etc/cron.d/report <<'EOF'
MAILTO=ops@lab.example
*/10 * * * * root /usr/bin/df -h >/var/log/df.log 2>&1
EOF
cat >/etc/cron.daily/0checksum <<'EOF'
#!/bin/sh
sha256sum /etc/passwd >/var/log/passwd.sha256
EOF
chmod 0755 /etc/cron.daily/0checksum
crontab -l
