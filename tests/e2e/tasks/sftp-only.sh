## people who may only copy files
groupadd sftponly
useradd --gid sftponly --home-dir /srv/sftp/partner --no-create-home --shell /usr/sbin/nologin partner

## the jail belongs to root, the inbox to the partner
install -d -o root -g root -m 0755 /srv/sftp /srv/sftp/partner
install -d -o partner -g sftponly -m 0770 /srv/sftp/partner/inbox

## sshd
cat >/etc/ssh/sshd_config.d/90-sftp.conf <<'EOF'
Match Group sftponly
    ChrootDirectory %h
    ForceCommand internal-sftp
    AllowTcpForwarding no
EOF
sshd -t
systemctl reload ssh
