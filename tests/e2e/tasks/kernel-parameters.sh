## network and memory
cat >/etc/sysctl.d/60-server.conf <<'EOF'
# a busy web server
net.core.somaxconn = 4096
net.ipv4.tcp_fin_timeout = 20
vm.swappiness = 10
fs.inotify.max_user_watches = 524288
EOF

## kernel hardening in the main file
echo 'kernel.dmesg_restrict = 1' >>/etc/sysctl.conf

## now
sysctl --system
