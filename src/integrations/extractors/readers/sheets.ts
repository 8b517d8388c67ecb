import type { Definition } from '../extractor.ts';
import type { Raw } from '../raw.ts';

/** A sheet of a workbook, in the workbook's order. */
export interface SheetEntry {
  readonly name: string;
  readonly hidden: boolean;
}

/** Those that the definition wants, with what is to be said about the others. */
export function chosen<S extends SheetEntry>(
  sheets: readonly S[],
  { sheets: wanted }: Definition,
): { sheets: S[]; warnings: Raw[] } {
  const warnings: Raw[] = [];
  if (!wanted) {
    for (const { name, hidden } of sheets)
      if (hidden)
        warnings.push({
          type: 'warning',
          code: 'HIDDEN_SHEET',
          message: `The sheet ${name} is hidden, and was not read.`,
          sheet: name,
        });
    return { sheets: sheets.filter(({ hidden }) => !hidden), warnings };
  }
  const found = new Set<S>();
  for (const want of wanted) {
    // A sheet that is called 2 comes before the second one.
    const sheet =
      sheets.find(({ name }) => name === want) ?? (/^\d{1,5}$/.test(want) ? sheets[Number(want) - 1] : undefined);
    if (sheet) found.add(sheet);
    else warnings.push({ type: 'warning', code: 'SHEET_NOT_FOUND', message: `There is no sheet ${want}.` });
  }
  return { sheets: sheets.filter((sheet) => found.has(sheet)), warnings };
}
