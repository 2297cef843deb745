## install rsyslog
apt-get -q -y install rsyslog

## send everything on
cat >/etc/rsyslog.d/60-forward.conf <<'EOF'
*.* action(type="omfwd" target="10.0.0.9" port="514" protocol="tcp"
           queue.type="LinkedList" action.resumeRetryCount="-1")
EOF
rsyslogd -N1
systemctl restart rsyslog
