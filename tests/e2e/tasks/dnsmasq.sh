## install dnsmasq
apt-get -q -y install dnsmasq

## a cache for the local network
cat >/etc/dnsmasq.d/lab.conf <<'EOF'
port=5353
domain=lab.example
address=/printer.lab.example/10.0.0.40
cache-size=2000
no-resolv
server=10.0.0.1
EOF
dnsmasq --test
systemctl restart dnsmasq
