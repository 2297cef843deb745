## install the NFS server
DEBIAN_FRONTEND=noninteractive apt-get -q -y install nfs-kernel-server

## what is shared
install -d -m 2775 -g users /srv/share
install -d -m 0755 /srv/readonly
cat >>/etc/exports <<'EOF'
/srv/share     10.0.0.0/24(rw,sync,no_subtree_check,root_squash)
/srv/readonly  *(ro,sync,no_subtree_check)
EOF

## a fixed port for the firewall
mkdir -p /etc/nfs.conf.d
printf '[mountd]\nport = 20048\n' >/etc/nfs.conf.d/ports.conf
