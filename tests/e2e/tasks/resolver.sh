## our own name servers
cat >/etc/resolv.conf <<'EOF'
search lab.example
nameserver 10.0.0.53
nameserver 10.0.1.53
options timeout:2 rotate
EOF
