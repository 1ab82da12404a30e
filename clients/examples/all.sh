# Runs every example and notebook against the server at ANTIPHON_TARGET: sh -e all.sh [PYTHON]
python=${1:-python}
folder=$(dirname "$0")
for program in studio game podcast "batch $folder/pieces.csv" "radio --port 0 --seconds 10 --change 4"; do
  name=${program%% *}
  echo "== $name"
  # shellcheck disable=SC2086 # The rest are arguments.
  "$python" "$folder/$name.py" ${program#"$name"}
done
echo "== notebooks"
"$python" "$folder/../notebooks/execute.py" --out out/notebooks "$folder"/../notebooks/*.ipynb
