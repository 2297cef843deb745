## install bind
DEBIAN_FRONTEND=noninteractive apt-get -q -y install bind9

## the zone
install -d -o root -g bind -m 0755 /etc/bind/zones
cat >/etc/bind/zones/db.lab.example <<'EOF'
$TTL 3600
@   IN SOA ns1.lab.example. hostmaster.lab.example. ( 2026010101 7200 900 1209600 300 )
    IN NS  ns1.lab.example.
ns1 IN A   10.10.0.2
www IN A   10.10.0.10
EOF
cat >>/etc/bind/named.conf.local <<'EOF'
zone "lab.example" {
    type master;
    file "/etc/bind/zones/db.lab.example";
};
EOF

## no open resolver
sed -i 's|^\tdnssec-validation auto;|\tdnssec-validation auto;\n\tallow-recursion { 10.10.0.0/16; localhost; };|' /etc/bind/named.conf.options

## check and reload
named-checkconf && named-checkzone lab.example /etc/bind/zones/db.lab.example
systemctl reload named
