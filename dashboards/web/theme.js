// Runs before the first paint, so that a chosen theme does not flash the other one. Storage may be
// refused (private windows); the system's preference holds then.
try {
  const theme = localStorage.getItem('theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // nothing is stored, nothing to restore
}
