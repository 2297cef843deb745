## make the file
fallocate -l 64M /swapfile
chmod 0600 /swapfile
mkswap /swapfile

## use it, now and after a boot
swapon /swapfile
echo '/swapfile none swap sw,nofail 0 0' >>/etc/fstab
swapon --show
