setInterval(async () => {
  if (document.hidden || document.querySelector("main:hover .spot:hover")) return;
  try {
    const answer = await fetch(location.href);
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
  } catch { /* the next time, then */ }
}, 5000);
