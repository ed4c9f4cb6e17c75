// The page, top to bottom. Print opens what is folded, since paper cannot be clicked.
for (const draw of [
  drawTitle,
  drawHeadline,
  drawSize,
  drawBlocks,
  drawLayers,
  drawWorst,
  drawChanges,
  drawNotes,
  drawKept,
  drawTable,
  drawOrigin,
])
  draw();

addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
