## names that people really give
mkdir -p '/srv/Daten/Büro München' '/srv/Daten/price {{ list }}'
echo 'Grüße' >'/srv/Daten/Büro München/Prüfung ✓.txt'
echo "it's 50 %" >"/srv/Daten/Büro München/o'clock 100%.txt"
echo '{{ 7 * 7 }}' >'/srv/Daten/price {{ list }}/{{ item }}.txt'
printf 'a\tb\n' >'/srv/Daten/price {{ list }}/tab	name.csv'
echo hidden >'/srv/Daten/.versteckt'
echo dash >/srv/Daten/-rf

## a file in another encoding, an empty one, a link with a space
printf 'Stra\337e\n' >/srv/Daten/latin1.txt
: >/srv/Daten/empty
ln -s 'Büro München/Prüfung ✓.txt' '/srv/Daten/the newest'
chmod 0750 '/srv/Daten/Büro München'
