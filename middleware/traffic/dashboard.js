const show = (id) => document.querySelectorAll(".notice").forEach((notice) => { notice.hidden = notice.id !== id; });

const renew = async () => {
  // A redirection leads to a page that is not this one: that of the log-in, most often.
  const answer = await fetch(location.href, { redirect: "manual", signal: AbortSignal.timeout(5000) });
  if (answer.status >= 429) return "away";
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const figures = page.querySelector("#traffic");
  if (!answer.ok || !figures) return "ended";
  document.querySelector("#traffic").replaceWith(figures);
};

setInterval(async () => {
  if (document.hidden || document.querySelector(".spot:hover")) return;
  show(await renew().catch(() => "away"));
}, 5000);
