# Makes a directory of links, one a line of `links`: place, target.
echo "$links" | while read -r place target; do
  mkdir -p "$out/$(dirname "$place")"
  ln -s "$target" "$out/$place"
done
