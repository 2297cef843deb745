## a list that nobody changes by mistake
install -d -m 0755 /srv/keep
echo "192.0.2.0/24 office" > /srv/keep/networks
chattr +i /srv/keep/networks
lsattr /srv/keep/networks
