#!/usr/bin/env bash
# The pictures of a report that the docs show: docs/report-desktop.png and docs/report-phone.png.
#     docs/screenshots.sh runs/demo/bundle/report/report.html
# Needs Chromium (apt-get install chromium). It looks at the page and changes nothing in it.
set -euo pipefail

page=$(realpath "${1:?which report.html?}")
docs=$(dirname "$(realpath "$0")")
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
    { echo "No Chromium here: apt-get install chromium" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

shoot() {  # width, height, page, picture
    "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$scratch/profile" \
        --host-resolver-rules="MAP * ~NOTFOUND" --virtual-time-budget=5000 \
        --window-size="$1,$2" --screenshot="$4" "file://$3" 2>"$scratch/said" || { cat "$scratch/said" >&2; exit 1; }
}

shoot 1280 1760 "$page" "$docs/report-desktop.png"

# A window can't be as narrow as a phone, a frame can: three of them, each at another place of the page.
{
    echo '<!doctype html><style>body { margin: 0; background: #8d99a6; display: flex; gap: 24px; padding: 24px }'
    echo 'iframe { border: 0; width: 390px; height: 844px }</style>'
    escaped=$(sed 's/&/\&amp;/g; s/"/\&quot;/g' "$page")
    for _ in verdict number variance; do printf '<iframe srcdoc="%s"></iframe>\n' "$escaped"; done
    cat <<'SCRIPT'
<script>
addEventListener("load", () => {
  const places = ["verdict", "number", "variance"];
  document.querySelectorAll("iframe").forEach((frame, at) => {
    const target = frame.contentDocument.getElementById(places[at]);
    if (target) frame.contentWindow.scrollTo(0, target.offsetTop - 12);
  });
});
</script>
SCRIPT
} > "$scratch/phone.html"
shoot 1266 892 "$scratch/phone.html" "$docs/report-phone.png"
