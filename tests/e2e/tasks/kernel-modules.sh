## loaded at boot
printf 'br_netfilter\noverlay\n' >/etc/modules-load.d/containers.conf

## never loaded
cat >/etc/modprobe.d/blacklist-site.conf <<'EOF'
blacklist usb-storage
install cramfs /bin/false
EOF
