## install
DEBIAN_FRONTEND=noninteractive apt-get -q -y install unattended-upgrades

## every day
cat >/etc/apt/apt.conf.d/20auto-upgrades <<'EOF'
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
APT::Periodic::AutocleanInterval "7";
EOF

## reboot at night if needed
cat >/etc/apt/apt.conf.d/52site <<'EOF'
Unattended-Upgrade::Automatic-Reboot "true";
Unattended-Upgrade::Automatic-Reboot-Time "03:30";
EOF

## try
unattended-upgrade --help >/dev/null
