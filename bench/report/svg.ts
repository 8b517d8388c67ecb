/** A bar. */
export interface Bar {
  readonly label: string;
  readonly value: number;
  readonly low: number;
  readonly high: number;
  readonly emphasised: boolean;
}

const escape = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
const figure = (value: number): string =>
  value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(3);

const left = 260;
const width = 760;
const line = 26;

/** Horizontal bars with their spread, as an SVG image that reads on light and on dark ground. */
export function bars(title: string, unit: string, all: readonly Bar[]): string {
  const most = Math.max(...all.map(({ high }) => high), 1e-9);
  const scale = (width - left - 90) / most;
  const rows = all.map(({ label, value, low, high, emphasised }, index) => {
    const y = 46 + index * line;
    const end = left + value * scale;
    return [
      `<text x="${left - 8}" y="${y + 14}" text-anchor="end"${emphasised ? ' font-weight="bold"' : ''}>${escape(label)}</text>`,
      `<rect x="${left}" y="${y}" width="${(value * scale).toFixed(1)}" height="18" fill="${emphasised ? '#d9480f' : '#748ffc'}"/>`,
      `<path d="M${(left + low * scale).toFixed(1)} ${y + 9}H${(left + high * scale).toFixed(1)}" stroke="#808080" stroke-width="2"/>`,
      `<text x="${(Math.max(end, left + high * scale) + 6).toFixed(1)}" y="${y + 14}">${figure(value)}</text>`,
    ].join('');
  });
  const height = 54 + all.length * line;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="13" fill="#808080">
<text x="12" y="22" font-size="15" font-weight="bold">${escape(title)}</text>
<text x="${width - 12}" y="22" text-anchor="end">${escape(unit)}</text>
${rows.join('\n')}
</svg>
`;
}
