"use strict";
// Every picture in a box with `data-zoom` opens large: the arrow keys show its neighbors, Esc closes.
const COARSE = 128; // a picture of fewer pixels is shown with its pixels

const lightbox = (() => {
  const make = (tag, properties, ...parts) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...parts);
    return made;
  };
  const button = (text) => make("button", { type: "button", textContent: text });
  const picture = make("img", { alt: "" }), caption = make("p", {});
  const back = button("Previous"), on = button("Next"), close = button("Close");
  caption.setAttribute("aria-live", "polite");
  const dialog = make("dialog", { className: "lightbox", ariaLabel: "Picture" },
    picture, caption, make("div", {}, back, close, on));
  document.body.append(dialog);
  let images = [], at = 0;

  const show = (index) => {
    at = (index + images.length) % images.length;
    const image = images[at];
    picture.src = image.src;
    picture.alt = image.alt;
    picture.classList.toggle("coarse", Math.min(image.naturalWidth, image.naturalHeight) < COARSE);
    caption.textContent = images.length > 1 ? `${image.alt} (${at + 1} of ${images.length})` : image.alt;
  };
  back.addEventListener("click", () => show(at - 1));
  on.addEventListener("click", () => show(at + 1));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => images[at]?.closest("button")?.focus());
  dialog.addEventListener("click", ({ target }) => {
    if (target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: images.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
  return (image) => {
    images = [...image.closest("[data-zoom]").querySelectorAll(".zoom img")];
    back.hidden = on.hidden = images.length < 2;
    show(images.indexOf(image));
    dialog.showModal();
    close.focus();
  };
})();

/** Put a picture on a button that enlarges it. */
function zoomable(image) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "zoom" });
  button.setAttribute("aria-label", `Enlarge: ${image.alt}`);
  image.replaceWith(button);
  button.append(image);
  button.addEventListener("click", () => lightbox(image));
  return button;
}

for (const image of document.querySelectorAll("[data-zoom] img")) zoomable(image);
