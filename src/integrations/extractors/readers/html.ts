import { parse, type DefaultTreeAdapterTypes } from 'parse5';
import { DocumentBeyondLimits } from '../errors.ts';
import { readBytes, type Raw, type RawCell, type Source } from '../raw.ts';
import { encodingOf } from './text.ts';

type Node = DefaultTreeAdapterTypes.ChildNode;
type Element = DefaultTreeAdapterTypes.Element;

const unseen = new Set(['script', 'style', 'template', 'noscript', 'head']);
const blocks = new Set(['p', 'div', 'li', 'ul', 'ol', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'section', 'article', 'pre']);

// The standard's own bounds. @see https://html.spec.whatwg.org/multipage/tables.html#attributes-common-to-td-and-th-elements
const maxColspan = 1_000;
const maxRowspan = 65_534;

const isElement = (node: Node): node is Element => 'tagName' in node;
const attributeOf = (element: Element, name: string): string | undefined =>
  element.attrs.find((attribute) => attribute.name === name)?.value;

/** Tables of an HTML document; nested ones follow the one that they are in. */
export async function* readHtml(source: Source): AsyncGenerator<Raw> {
  const bytes = await readBytes(source);
  const declared = /<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w:.-]{1,40})/i.exec(
    bytes.subarray(0, 4096).toString('latin1'),
  )?.[1];
  const encoding = await encodingOf(source, source.definition.encoding);
  const label = encoding.guessed ? (known(declared) ?? encoding.label) : encoding.label;
  if (encoding.guessed && known(declared) === null)
    yield {
      type: 'warning',
      code: 'ENCODING_GUESSED',
      message: `The document does not say what it is encoded in. It was read as ${label}.`,
    };
  const document = parse(new TextDecoder(label).decode(bytes));
  let number = 0;
  for (const table of tablesOf(document.childNodes)) {
    number += 1;
    yield* readTable(table, number, source);
  }
}

const known = (label: string | undefined): string | null => {
  try {
    return label === undefined ? null : new TextDecoder(label).encoding;
  } catch {
    return null; // RangeError: it is none
  }
};

/** All tables in the order in which they begin, without recursion: a document may be nested as deeply as it likes. */
function* tablesOf(nodes: readonly Node[]): Generator<Element> {
  const stack = nodes.toReversed();
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (!isElement(node) || (unseen.has(node.tagName) && node.tagName !== 'head')) continue;
    if (node.tagName === 'table') yield node;
    for (let at = node.childNodes.length - 1; at >= 0; at--) stack.push(node.childNodes[at] as Node);
  }
}

/** What is shown of an element, without the tables in it. */
function textOf(element: Element): string {
  const pieces: string[] = [];
  const stack: (Node | string)[] = element.childNodes.toReversed();
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    if (typeof node === 'string') pieces.push(node);
    else if (node.nodeName === '#text' && 'value' in node) pieces.push(node.value.replaceAll(/[\t\n\f\r ]+/g, ' '));
    else if (!isElement(node) || unseen.has(node.tagName) || node.tagName === 'table') continue;
    else if (node.tagName === 'br') pieces.push('\n');
    else {
      const block = blocks.has(node.tagName);
      if (block) pieces.push('\n');
      if (block) stack.push('\n');
      for (let at = node.childNodes.length - 1; at >= 0; at--) stack.push(node.childNodes[at] as Node);
    }
  }
  return pieces
    .join('')
    .replaceAll(/ *\n[ \n]*/g, '\n')
    .replaceAll(/ {2,}/g, ' ')
    .trim();
}

const span = (element: Element, name: string, most: number): number => {
  const value = Number.parseInt(attributeOf(element, name) ?? '1', 10);
  return Number.isNaN(value) || value < 0 ? 1 : Math.min(value, most);
};

interface Row {
  readonly cells: readonly Element[];
  /** Which thead, tbody or tfoot: a cell spans no further. */
  readonly group: Element;
}

function rowsOf(table: Element): { rows: Row[]; caption: string } {
  const rows: Row[] = [];
  let caption = '';
  const take = (row: Element, group: Element): void => {
    const cells = row.childNodes.filter(isElement).filter(({ tagName }) => tagName === 'td' || tagName === 'th');
    rows.push({ cells, group });
  };
  for (const child of table.childNodes.filter(isElement)) {
    if (child.tagName === 'caption') caption ||= textOf(child);
    else if (child.tagName === 'tr') take(child, table);
    else if (/^(?:thead|tbody|tfoot)$/.test(child.tagName))
      for (const row of child.childNodes.filter(isElement)) if (row.tagName === 'tr') take(row, child);
  }
  return { rows, caption };
}

/** @see https://html.spec.whatwg.org/multipage/tables.html#forming-a-table */
function* readTable(table: Element, number: number, source: Source): Generator<Raw> {
  const { rows, caption } = rowsOf(table);
  const { maxColumns } = source.limits;
  const isHead = ({ cells, group }: Row): boolean =>
    group.tagName === 'thead' || (cells.length > 1 && cells.every(({ tagName }) => tagName === 'th'));
  const headers = rows.findIndex((row) => !isHead(row));
  let down: { left: number; cell: RawCell | undefined; width: number; origin: number }[] = [];
  let until: number[] = [];
  let begun = false;
  let given = 0;
  for (const [at, { cells: elements, group }] of rows.entries()) {
    if (at > 0 && rows[at - 1]?.group !== group) [down, until] = [[], []];
    if (given >= source.maxRows) break;
    const cells: (RawCell | undefined)[] = [];
    const origins: number[] = [];
    const place = (left: number, width: number, cell: RawCell | undefined, origin: number, covered: boolean): void => {
      if (left + width > maxColumns) throw new DocumentBeyondLimits('maxColumns', maxColumns);
      for (let column = left; column < left + width; column++) {
        if (origins[column] !== undefined) continue;
        cells[column] = cell && (covered || column > left) ? { ...cell, note: 'MERGED' } : cell;
        origins[column] = origin;
      }
    };
    const kept = down.map((_, index) => (until[index] ?? 0) >= at);
    down = down.filter((_, index) => kept[index]);
    until = until.filter((_, index) => kept[index]);
    for (const { left, width, cell, origin } of down) place(left, width, cell, origin, true);
    let column = 0;
    for (const [index, element] of elements.entries()) {
      while (origins[column] !== undefined) column += 1;
      const text = textOf(element);
      const cell: RawCell | undefined = text === '' ? undefined : { text };
      const width = Math.max(1, span(element, 'colspan', maxColspan));
      const height = span(element, 'rowspan', maxRowspan);
      place(column, width, cell, index + 1, false);
      if (height !== 1) {
        down.push({ left: column, width, cell, origin: index + 1 });
        until.push(height === 0 ? Infinity : at + height - 1);
      }
      column += width;
    }
    while (cells.length > 0 && cells.at(-1) === undefined) cells.pop();
    if (cells.every((cell) => cell === undefined || cell.note === 'MERGED')) continue;
    if (!begun)
      yield { type: 'table', name: caption.slice(0, 200) || `Table ${number}`, headers: headers < 0 ? 0 : headers };
    begun = true;
    given += 1;
    yield {
      type: 'row',
      cells,
      cite: (found) => ({
        kind: 'ELEMENT',
        path: `table ${number}, row ${at + 1}, cell ${origins[found] ?? found + 1}`,
      }),
    };
  }
  if (begun) yield { type: 'end' };
}
