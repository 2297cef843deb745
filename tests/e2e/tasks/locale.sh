## install locales
DEBIAN_FRONTEND=noninteractive apt-get -q -y install locales

## make two of them
sed -i -e 's/^# *\(de_DE.UTF-8 UTF-8\)/\1/' -e 's/^# *\(en_GB.UTF-8 UTF-8\)/\1/' /etc/locale.gen
locale-gen

## the default
update-locale LANG=de_DE.UTF-8 LC_MESSAGES=en_GB.UTF-8
