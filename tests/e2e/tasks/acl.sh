## a folder that two groups share
apt-get -q -y install acl
groupadd authors
groupadd editors
install -d -m 2770 -g authors /srv/texts
setfacl -m g:editors:rwx -m d:g:editors:rwx /srv/texts
getfacl -p /srv/texts
