// Dots that travel along the hops as steps do. Calm: few at once, and none for who prefers no motion.

const NS = "http://www.w3.org/2000/svg";
const PER_SECOND_MAX = 2.5; // Dots that set out, however fast steps are.
const HOP_S = 0.55; // A hop of a dot: to be followed by eye, not to scale.
const AT_ONCE_MAX = 14;

interface Dot {
  element: SVGCircleElement;
  begun: number;
}

/** Draws into the group ".tokens" along the paths ".hop", until the returned function is called. steps: per second, now. */
export function startTokens(svg: SVGSVGElement, steps: () => number): () => void {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const group = svg.querySelector(".tokens");
  const dots: Dot[] = [];
  let frame = 0;
  let lastBegun = 0;

  const draw = (ms: number) => {
    const now = ms / 1000;
    const hops = [...svg.querySelectorAll<SVGPathElement>(".hop")];
    const rate = Math.min(steps(), PER_SECOND_MAX);
    if (!still.matches && hops.length > 0 && rate > 0 && dots.length < AT_ONCE_MAX && now - lastBegun > 1 / rate) {
      const element = document.createElementNS(NS, "circle");
      element.setAttribute("r", "4");
      element.setAttribute("class", "token");
      group?.append(element);
      dots.push({ element, begun: now });
      lastBegun = now;
    }
    for (let i = dots.length - 1; i >= 0; i--) {
      const dot = dots[i]!;
      const along = (now - dot.begun) / HOP_S;
      const hop = hops[Math.floor(along)];
      if (hop === undefined || still.matches) {
        dot.element.remove();
        dots.splice(i, 1);
        continue;
      }
      const part = along % 1;
      const eased = part * part * (3 - 2 * part);
      const at = hop.getPointAtLength(eased * hop.getTotalLength());
      dot.element.setAttribute("cx", at.x.toFixed(1));
      dot.element.setAttribute("cy", at.y.toFixed(1));
      dot.element.setAttribute("opacity", (hop.classList.contains("hop-back") ? 0.55 : 1).toString());
    }
    frame = requestAnimationFrame(draw);
  };
  frame = requestAnimationFrame(draw);
  return () => {
    cancelAnimationFrame(frame);
    for (const dot of dots) dot.element.remove();
  };
}
