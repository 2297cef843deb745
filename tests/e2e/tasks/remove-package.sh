## no terminal multiplexer on a server
apt-get -q -y remove tmux
apt-get -q -y autoremove
