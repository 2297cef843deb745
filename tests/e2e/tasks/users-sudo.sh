## groups first
groupadd --gid 1500 operators
groupadd --gid 1501 deployers

## two people
useradd --create-home --uid 1601 --shell /bin/bash --groups operators --comment 'Ada Byron' ada
useradd --create-home --uid 1602 --shell /bin/bash --groups operators,deployers --comment 'Grace Hopper' grace

## their keys
install -d -m 0700 -o ada -g ada /home/ada/.ssh
echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk2yL0vXhKp9v1QOa3lq1Yv0l6QF3sS8mS7cQ0b2m3K ada@laptop' >/home/ada/.ssh/authorized_keys
chown ada:ada /home/ada/.ssh/authorized_keys
chmod 0600 /home/ada/.ssh/authorized_keys
install -d -m 0700 -o grace -g grace /home/grace/.ssh
echo 'from="10.0.0.0/8" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGq0d7mX3nJ2cR5tU8wZ1yB4eH6kN9pS0vX2aD5gJ8mQ grace@desk' >/home/grace/.ssh/authorized_keys
chown grace:grace /home/grace/.ssh/authorized_keys
chmod 0600 /home/grace/.ssh/authorized_keys

## what they may do
cat >/etc/sudoers.d/operators <<'EOF'
%operators ALL=(root) NOPASSWD: /usr/bin/systemctl restart nginx, /usr/bin/journalctl
EOF
cat >/etc/sudoers.d/deployers <<'EOF'
Defaults:%deployers !requiretty
%deployers ALL=(www-data) NOPASSWD: ALL
EOF
chmod 0440 /etc/sudoers.d/operators /etc/sudoers.d/deployers
visudo -c
