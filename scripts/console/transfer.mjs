// What the tests of export and import share: a page that saves files as links do, its menu, its notes.

export const notes = (page) => page.locator(".toasts");

// A page as another machine sees it over http://, where a browser gives it less; with no dialog for files, unless `picker` gives it
// one.
export async function opened(open, server, { at = "", picker, ...how } = {}) {
  const page = await open(server, { ...how, blank: true });
  await page.addInitScript(() => { delete Crypto.prototype.randomUUID; });
  await page.addInitScript(picker ?? (() => { delete window.showSaveFilePicker; }));
  await page.goto(`${server.url}/${at}`);
  return page;
}

export async function more(page, name) {
  await page.getByRole("button", { name: "More", exact: true }).click();
  await page.getByRole("menuitem", { name }).click();
  return page.getByRole("dialog", { name: name.replace("…", "") });
}
