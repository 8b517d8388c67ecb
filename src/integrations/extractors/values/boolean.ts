const words = (text: string): ReadonlySet<string> => new Set(text.split(' '));

/** Read wherever they are. */
const yes = words('true yes ja oui sí sim wahr vrai verdadero verdadeiro vero');
const no = words('false no nein non não falsch faux falso');
/** Read in a column that is said to be of booleans: elsewhere they are codes. */
const declaredYes = words('1 y t j o s on x ✓ ✔ ☑ si wahr');
const declaredNo = words('0 n f off ✗ ✘ ☐');

/** @param declared whether the column is said to be of booleans */
export function readBoolean(given: string, declared = false): boolean | null {
  if (given.length > 12) return null;
  const text = given.trim().toLowerCase();
  if (yes.has(text) || (declared && declaredYes.has(text))) return true;
  if (no.has(text) || (declared && declaredNo.has(text))) return false;
  return null;
}
