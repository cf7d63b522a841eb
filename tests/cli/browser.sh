# The page of `analyze` in a real browser: nothing overflows, texts are large enough and do not meet, light and dark, and
# it prints. Skipped where there is no Chromium. The pictures stay in the folder of the test.
. "$(dirname "$0")/lib.sh"

browser=
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" > /dev/null; then browser=$name; break; fi
done
if [ -z "$browser" ]; then
  echo "SKIPPED: no chromium" >&2
  exit 77
fi

recipe | sed 's/epochs: 4/epochs: 2, save_every: 5, keep_checkpoints: 10/' > recipe.yaml
long=lora-with-a-name-that-is-much-too-long-for-any-legend-or-axis
"$MSPLORA" train recipe.yaml > /dev/null 2>&1
"$MSPLORA" train recipe.yaml --set adapter.method=lora --set output.dir=$long > /dev/null 2>&1
"$MSPLORA" analyze run $long --checkpoints --report page.html > /dev/null

headless() {
  "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$here/profile" "$@" 2> browser.log
}

# A copy without the policy that forbids scripts, with one that measures and tells the page around it.
cat > probe.js << 'JS'
<script>
var root = document.documentElement, smallest = 99, outside = [], meeting = [];
document.querySelectorAll("details").forEach(function (it) { it.open = true; });
document.querySelectorAll("svg[role=img]").forEach(function (svg) {
  var frame = svg.getBoundingClientRect(), scale = frame.width / svg.viewBox.baseVal.width, boxes = [];
  svg.querySelectorAll("text").forEach(function (text) {
    var box = text.getBoundingClientRect(), name = svg.getAttribute("aria-labelledby") + " " + text.textContent;
    smallest = Math.min(smallest, parseFloat(getComputedStyle(text).fontSize) * scale);
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 3 || box.bottom > frame.bottom + 3)
      outside.push(name);
    boxes.forEach(function (other) {
      var across = Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left);
      var down = Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top);
      if (across > 1.5 && down > 4) meeting.push(name + " / " + other.name);
    });
    boxes.push({ box: box, name: name });
  });
});
parent.postMessage(["width=" + innerWidth, "scroll=" + root.scrollWidth, "small=" + (smallest < 11), "outside=" + outside.slice(0, 5),
  "meeting=" + meeting.slice(0, 5), "ground=" + getComputedStyle(document.body).backgroundColor, "end"].join("\n"), "*");
</script>
JS
perl -0777 -pe 'BEGIN { open my $in, "<", "probe.js" or die; local $/; $js = <$in>; }
  s/<meta http-equiv="Content-Security-Policy"[^>]*>// or die "no policy"; s{</body>}{$js</body>} or die' page.html > probe.html

# A window of Chromium is at least 500 wide; a frame inside may be as narrow as a phone.
probe() { # WIDTH GROUND OPTION...
  local width=$1 ground=$2
  shift 2
  echo "<meta name=color-scheme content='light dark'><iframe src=probe.html width=$width height=800 style=border:0></iframe>
    <script>onmessage = function (e) { document.body.textContent = e.data; }</script>" > frame.html
  headless "$@" --window-size=1400,900 --virtual-time-budget=20000 --dump-dom "file://$here/frame.html" > probe.txt
  for line in "width=$width" "scroll=$width" "small=false" "outside=" "meeting=" "ground=$ground" "end"; do
    grep -qE "(^|>)$line(\$|<)" probe.txt || { cat probe.txt >&2; fail "expected \`$line\` at width $width $*"; }
  done
}
light='rgb\(255, 255, 255\)' dark='rgb\(20, 22, 26\)'
probe 360 "$light"
probe 360 "$dark" --blink-settings=preferredColorScheme=0
probe 800 "$light"
probe 1200 "$light"

# What a person would look at.
echo "<body style=margin:0><iframe src=page.html width=360 height=6000 style=border:0></iframe>" > phone.html
headless --window-size=1200,6000 --screenshot="$here/light.png" "file://$here/page.html" > /dev/null
headless --window-size=1200,6000 --screenshot="$here/dark.png" --blink-settings=preferredColorScheme=0 "file://$here/page.html" > /dev/null
headless --window-size=500,6000 --screenshot="$here/phone.png" "file://$here/phone.html" > /dev/null
headless --no-pdf-header-footer --print-to-pdf="$here/page.pdf" "file://$here/page.html" > /dev/null
for file in light.png dark.png phone.png page.pdf; do [ -s $file ] || fail "no $file"; done
! cmp -s light.png dark.png || fail "light and dark look the same"
[ "$(head -c 4 page.pdf)" = %PDF ] || fail "it does not print"
