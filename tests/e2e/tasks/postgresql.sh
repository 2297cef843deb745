## install PostgreSQL
DEBIAN_FRONTEND=noninteractive apt-get -q -y install postgresql

## a role and its database
su - postgres -c "createuser --no-superuser --no-createdb inventory"
su - postgres -c "createdb --owner inventory inventory"

## memory and logging
cat >/etc/postgresql/15/main/conf.d/tuning.conf <<'EOF'
shared_buffers = 160MB
log_min_duration_statement = 500
EOF

## who may connect
sed -i '/^# TYPE/i host inventory inventory 10.20.0.0/24 scram-sha-256' /etc/postgresql/15/main/pg_hba.conf

## restart
systemctl restart postgresql
su - postgres -c "psql -c 'SHOW shared_buffers'"
