## a user that pulls code
useradd --create-home --shell /bin/bash deploy
install -d -m 0700 -o deploy -g deploy /home/deploy/.ssh
ssh-keygen -q -t ed25519 -N '' -C deploy@lab -f /home/deploy/.ssh/id_ed25519
chown deploy:deploy /home/deploy/.ssh/id_ed25519 /home/deploy/.ssh/id_ed25519.pub

## whom it trusts
cat >/home/deploy/.ssh/config <<'EOF'
Host git.lab.example
    User git
    IdentityFile ~/.ssh/id_ed25519
    StrictHostKeyChecking yes
EOF
chown deploy:deploy /home/deploy/.ssh/config
chmod 0600 /home/deploy/.ssh/config
