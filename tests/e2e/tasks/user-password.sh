## somebody who logs in at the console
useradd --create-home --shell /bin/bash --groups sudo console
echo 'console:correct horse battery staple' | chpasswd
chage --maxdays 90 console

## and somebody who no longer may
usermod --lock --shell /usr/sbin/nologin sandbox
