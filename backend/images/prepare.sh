#!/bin/sh
# Makes an imported image a guest of ours: run once, by cloud-init, from the seed that it was booted with.
# It says each step on the serial line, and always powers off. $1 is what it leaves as proof of its end.
set -eu

here=/run/fluid
proof=$1
step=begin

say() {
    for line in /dev/ttyS0 /dev/ttyAMA0; do
        if [ -c "$line" ]; then printf '\nfluid: %s\n' "$*" >"$line" || true; fi
    done
}
begin() {
    step=$1
    say "step $step"
}
finish() {
    status=$?
    [ "$status" = 0 ] || say "failed $step"
    sync
    systemctl --no-block poweroff || poweroff -f
}
trap finish EXIT

begin programs
[ -d /run/systemd/system ]
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))'
PATH=$PATH:/usr/sbin:/sbin
for program in sshd ssh-keygen useradd ip; do command -v $program; done

begin users
# Not "!": sshd without PAM takes that for a locked account.
usermod -p '*' root
id sandbox || useradd -m -s /bin/bash -p '*' sandbox

begin ssh
grep -qs '^Include /etc/ssh/sshd_config.d/' /etc/ssh/sshd_config ||
    sed -i '1i Include /etc/ssh/sshd_config.d/*.conf' /etc/ssh/sshd_config
service=ssh.service
systemctl cat "$service" || service=sshd.service
# Socket activation would start one more process for the first login.
systemctl disable ssh.socket sshd.socket || true
systemctl enable "$service"
mkdir -p /etc/systemd/system/fluid-guestd.service.d
printf '[Unit]\nBefore=%s\n' "$service" >/etc/systemd/system/fluid-guestd.service.d/10-ssh.conf
mkdir -p /run/sshd
[ -s /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
sshd -t

begin network
# The host gives each fork its address; nothing else may set the card up.
while read -r unit; do ln -sfn /dev/null "/etc/systemd/system/$unit"; done <$here/masked
touch /etc/cloud/cloud-init.disabled
rm -f /etc/resolv.conf
cat $here/resolv.conf >/etc/resolv.conf

begin daemon
systemctl daemon-reload
systemctl enable fluid-guestd.service

begin identity
rm -f /etc/ssh/ssh_host_*
: >/etc/machine-id
mkdir -p /var/lib/dbus
ln -sfn /etc/machine-id /var/lib/dbus/machine-id
echo base >/etc/hostname
if command -v restorecon; then
    restorecon -R /etc/ssh /etc/systemd/system /etc/sudoers.d /usr/local/sbin || true
fi
mkdir -p -m 0700 /var/lib/fluid-guestd
printf '%s\n' "$proof" >/var/lib/fluid-guestd/prepared
begin end
