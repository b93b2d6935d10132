import { defineConfig } from "vite";

// One script and one style sheet: the binary serves them from memory, so there is nothing to load in parts. No inline code:
// the server's Content-Security-Policy forbids it.
export default defineConfig({
  base: "/",
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: false,
    cssCodeSplit: false,
    reportCompressedSize: false,
  },
  server: { proxy: Object.fromEntries(["/v1", "/cluster", "/cache", "/metrics", "/health", "/props"].map((path) => [path, "http://127.0.0.1:8000"])) },
});
