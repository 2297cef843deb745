## install redis
apt-get -q -y install redis-server

## memory and persistence
sed -i -e 's/^# maxmemory <bytes>/maxmemory 64mb/' -e 's/^# maxmemory-policy .*/maxmemory-policy allkeys-lru/' -e 's/^appendonly no/appendonly yes/' /etc/redis/redis.conf

## restart and ask
systemctl restart redis-server
redis-cli config get maxmemory
