## keep the journal, but not for ever
install -d /var/log/journal
cat >/etc/systemd/journald.conf.d/50-keep.conf <<'EOF'
[Journal]
Storage=persistent
SystemMaxUse=200M
MaxRetentionSec=1month
EOF
systemctl restart systemd-journald
journalctl --disk-usage
