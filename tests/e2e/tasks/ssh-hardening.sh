## who may log in
groupadd --system ssh-users
usermod -aG ssh-users sandbox

## harder than the default
cat >/etc/ssh/sshd_config.d/05-hardening.conf <<'EOF'
MaxAuthTries 3
LoginGraceTime 20
AllowGroups root ssh-users
AllowAgentForwarding no
ClientAliveInterval 300
EOF
chmod 0600 /etc/ssh/sshd_config.d/05-hardening.conf

## the old way of saying no to empty passwords
sed -i 's/^#PermitEmptyPasswords no/PermitEmptyPasswords no/' /etc/ssh/sshd_config

## a banner
printf 'Authorised use only.\nAll actions are recorded.\n' >/etc/ssh/banner
echo 'Banner /etc/ssh/banner' >>/etc/ssh/sshd_config.d/05-hardening.conf

## try it and reload
sshd -t && systemctl reload ssh
