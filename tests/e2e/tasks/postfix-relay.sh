## answers for the installer
debconf-set-selections <<'EOF'
postfix postfix/main_mailer_type select Satellite system
postfix postfix/mailname string lab.example
postfix postfix/relayhost string mail.lab.example
EOF
DEBIAN_FRONTEND=noninteractive apt-get -q -y install postfix

## send only
postconf -e inet_interfaces=loopback-only 'mynetworks=127.0.0.0/8' 'myhostname=relay.lab.example'
echo 'root: ops@lab.example' >/etc/aliases
newaliases
systemctl restart postfix
