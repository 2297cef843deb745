## never from backports by accident
cat >/etc/apt/preferences.d/no-backports <<'EOF'
Package: *
Pin: release a=bookworm-backports
Pin-Priority: 50
EOF

## keep the disk small
cat >/etc/apt/apt.conf.d/80site <<'EOF'
APT::Install-Suggests "false";
DPkg::Lock::Timeout "120";
EOF

## this one stays as it is
apt-mark hold openssl
