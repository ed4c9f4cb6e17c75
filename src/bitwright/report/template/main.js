// The page, top to bottom. Print opens what is folded, since paper cannot be clicked.
for (const node of document.querySelectorAll("[data-for]")) if (node.dataset.for !== DATA.kind) node.remove();
const OWN = {
  language: [drawTitle, drawHeadline, drawBlocks, drawWorst, drawChanges],
  network: [drawNetworkTitle, drawNetworkHeadline, drawDelivery, drawSearch, drawFindings, drawRanges],
};
for (const draw of [...OWN[DATA.kind], drawSize, drawLayers, drawNotes, drawKept, drawTable, drawOrigin]) draw();

addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
