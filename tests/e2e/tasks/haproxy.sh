## install haproxy
apt-get -q -y install haproxy

## two backends
cat >>/etc/haproxy/haproxy.cfg <<'EOF'

frontend web
    bind *:8080
    default_backend app

backend app
    balance roundrobin
    server app1 10.0.0.11:8080 check
    server app2 10.0.0.12:8080 check
EOF

## check and reload
haproxy -c -f /etc/haproxy/haproxy.cfg
systemctl reload haproxy
