## an editor
apt-get -q -y install vim-tiny nano

## and the one that everybody gets
update-alternatives --set editor /usr/bin/vim.tiny
