## a scratch space in memory
mkdir -p /srv/scratch
cat >/etc/systemd/system/srv-scratch.mount <<'EOF'
[Unit]
Description=Scratch space

[Mount]
What=tmpfs
Where=/srv/scratch
Type=tmpfs
Options=size=64m,mode=1777,nosuid,nodev

[Install]
WantedBy=multi-user.target
EOF

## mount it
systemctl daemon-reload
systemctl enable --now srv-scratch.mount
findmnt /srv/scratch
