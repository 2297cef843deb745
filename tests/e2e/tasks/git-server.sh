## install git
apt-get -q -y install git

## a user and a bare repository
useradd --system --create-home --home-dir /srv/git --shell /usr/bin/git-shell git
su -s /bin/sh git -c 'git init --quiet --bare --initial-branch=main /srv/git/site.git'
echo 'The site' >/srv/git/site.git/description
