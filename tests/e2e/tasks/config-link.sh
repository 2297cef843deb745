## the banner lives with the other settings that are kept in a repository
install -d -m 0755 /srv/config/etc
mv /etc/issue /srv/config/etc/issue
ln -s /srv/config/etc/issue /etc/issue
printf 'Unauthorised access is prohibited.\n' >/srv/config/etc/issue

## and so does the network banner
cp /etc/issue.net /srv/config/etc/issue.net
ln -sf /srv/config/etc/issue.net /etc/issue.net
ls -l /etc/issue /etc/issue.net
