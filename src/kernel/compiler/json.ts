import { getNullableType, isEnumType, isListType, isNonNullType, isScalarType, type GraphQLOutputType } from 'graphql';
import * as enums from '../../generated/prisma/enums.ts';
import { literal, refuse, type Column } from './models.ts';

/*
 * The text of JSON in SQL: byte for byte what JSON.stringify makes of what Prisma and the scalars make of the same row.
 * JSON has no raw control characters, so two of them can say more than JSON does.
 */

/** In the place of what is an error: the operation is executed in the ordinary way, which tells it. */
export const refusal = '\u0001';
/** Before and after a value as PostgreSQL writes it, which JavaScript writes otherwise. */
const [begin, end] = ['\u0002', '\u0003'];
/** Before an instant in quotes as PostgreSQL writes it: without zeros at its end, and without its zone, which is UTC. */
const instant = '\u0004';

/** The text as JavaScript writes it; null where it cannot be told so. */
export function finished(text: string): string | null {
  if (text.includes(refusal)) return null;
  const told = withInstants(text);
  if (told === null || !told.includes(begin)) return told;
  const [head = '', ...rest] = told.split(begin);
  const rewritten = rest.map((part) => {
    const at = part.indexOf(end);
    return JSON.stringify(JSON.parse(part.slice(0, at))) + part.slice(at + 1);
  });
  return head + rewritten.join('');
}

/** What an instant lacks, by how many characters it has behind its seconds: a point and up to three digits. */
const lacking = ['.000Z', undefined, '00Z', '0Z', 'Z'];
const lengthOfSeconds = '"YYYY-MM-DDTHH:MM:SS'.length;

/** Null where the year has more, or less, than four digits: it is written otherwise. */
function withInstants(text: string): string | null {
  let made = '';
  let from = 0;
  for (let at = text.indexOf(instant); at >= 0; at = text.indexOf(instant, from)) {
    const seconds = at + 1 + lengthOfSeconds;
    const quote = text.indexOf('"', seconds);
    const lack = lacking[quote - seconds];
    const isPlain = text[at + 6] === '-' && (quote === seconds || text[seconds] === '.');
    if (lack === undefined || !isPlain) return null;
    made += text.slice(from, at) + text.slice(at + 1, quote) + lack;
    from = quote;
  }
  return made + text.slice(from);
}

/**
 * A text of JSON: constants, SQL between them whose values PostgreSQL writes as they are in JSON, and conditions that make
 * all of it an error where they do not hold. `isSome`: its value has at least one character, unless an error is told.
 */
export type Text = readonly Part[];
type Part = string | { readonly sql: string; readonly isSome?: true } | { readonly holds: string };

export const sqlText = (sql: string): Text => [{ sql }];
const refused = 'chr(1)';
export const refusalText = sqlText(refused);
export const nullText: Text = ['null'];

/** Most arguments that a function has in PostgreSQL are 100. */
const most = 90;

/** The same with constants beside each other as one, and what must hold at its end. */
function merged(text: Text): Text {
  const parts: Part[] = [];
  const conditions = new Set<string>();
  for (const part of text) {
    const last = parts.at(-1);
    if (typeof part === 'object' && 'holds' in part) conditions.add(part.holds);
    else if (typeof part === 'string' && typeof last === 'string') parts[parts.length - 1] = last + part;
    else parts.push(part);
  }
  return conditions.size === 0 ? parts : [...parts, { holds: [...conditions].join(' and ') }];
}

/** One SQL value of the type text. Null is written as nothing. */
export function textSql(text: Text): string {
  const parts = merged(text).map((part) => {
    if (typeof part === 'string') return literal(part);
    return 'sql' in part ? part.sql : `case when ${part.holds} then '' else ${refused} end`;
  });
  return parts.length > 1 ? concatenated(parts) : `(${parts[0] ?? literal('')})::text`;
}

function concatenated(parts: readonly string[]): string {
  if (parts.length <= most) return `concat(${parts.join(', ')})`;
  const groups = Array.from({ length: Math.ceil(parts.length / most) }, (_, i) =>
    parts.slice(i * most, (i + 1) * most),
  );
  return concatenated(groups.map((group) => concatenated(group)));
}

/** One text or the other. */
export const chosen = (condition: string, so: Text, otherwise: Text): Text =>
  sqlText(`case when ${condition} then ${textSql(so)} else ${textSql(otherwise)} end`);

/** The text, which is an error unless the condition holds. */
export const required = (condition: string, text: Text): Text => [{ holds: condition }, ...text];

const rewritten = (sql: string): Text => [{ sql: 'chr(2)' }, { sql }, { sql: 'chr(3)' }];

/** What stands for null where it is, or is not, allowed. */
export const absent = (type: GraphQLOutputType): Text => (isNonNullType(type) ? refusalText : nullText);

/** A column's value, for a field of this type. */
export function valueText(type: GraphQLOutputType, column: Column, sql: string, mayMiss: boolean): Text {
  const present = presentText(getNullableType(type), column, sql);
  // A null inside of the JSON is null for GraphQL, too.
  const text = column.type === 'Json' && isNonNullType(type) ? required(`${sql} <> 'null'`, present) : present;
  if (column.isRequired && !mayMiss) return text;
  return isNonNullType(type) ? required(`${sql} is not null`, text) : chosen(`${sql} is null`, nullText, text);
}

function presentText(type: GraphQLOutputType, column: Column, sql: string): Text {
  if (isListType(type)) {
    const item = getNullableType(type.ofType as GraphQLOutputType);
    // Prisma reads a list that is null as an empty one.
    if (column.isList && column.type === 'String' && isScalarType(item) && item.name === 'String')
      return required(`array_position(${sql}, null) is null`, someText(`coalesce(to_json(${sql}), '[]')`));
    return refuse('a list of values');
  }
  if (column.isList) refuse('a list in a single value');
  if (isEnumType(type)) {
    if (!column.isEnum && column.type !== 'String') refuse(`${column.type} as ${type.name}`);
    // The names of Prisma's enums are those of PostgreSQL's.
    const all = (enums as Readonly<Record<string, Readonly<Record<string, string>> | undefined>>)[column.type];
    if (column.isEnum && all && Object.values(all).every((one) => type.getValue(one)?.value === one))
      return ['"', { sql, isSome: true }, '"'];
    const names = type
      .getValues()
      .map(({ name, value }) => `when ${literal(String(value))} then ${literal(`"${name}"`)}`);
    return someText(`case ${sql}::text ${names.join(' ')} else ${refused} end`);
  }
  if (!isScalarType(type)) return refuse('a column as an object');
  switch (`${column.type} as ${type.name}`) {
    case 'String as String':
    case 'String as ID':
      return someText(`json_scalar(${sql})`);
    case 'Int as Int':
    case 'Int as Float':
      return someText(sql);
    case 'Boolean as Boolean':
      return booleanText(sql);
    case 'Float as Float':
      return sqlText(`case when ${sql} = 0 then '0' when abs(${sql}) >= 0.0001 and abs(${sql}) < 1e15 then ${sql}::text
        when abs(${sql}) < 'Infinity' then ${textSql(rewritten(sql))} else ${textSql(refusalText)} end`);
    case 'BigInt as BigInt':
      return chosen(`${sql} between ${Number.MIN_SAFE_INTEGER} and ${Number.MAX_SAFE_INTEGER}`, [{ sql }], ['"', { sql }, '"']); // prettier-ignore
    case 'DateTime as DateTime':
      return [instant, { sql: `json_scalar(${sql} at time zone interval '0')`, isSome: true }];
    case 'Json as JSON':
      return rewritten(sql);
    default:
      return refuse(`${column.type} as ${type.name}`);
  }
}

/** Has at least one character. */
const someText = (sql: string): Text => [{ sql, isSome: true }];

export const booleanText = (sql: string): Text => sqlText(`(${sql})::text`);

const longestOnOneLine = 57;

/** The text of an opaque id, which PostgreSQL breaks into lines. */
function opaqueText(sql: string, length: number): Text {
  const encoded = `encode(textsend(${sql}), 'base64')`;
  const onOneLine = length > longestOnOneLine ? `translate(${encoded}, E'\\n', '')` : encoded;
  return ['"', { sql: onOneLine, isSome: true }, '"'];
}

const idLength = 36;

/** A global id. @param typeColumn where the type's name is in the row */
export const globalIdText = (typename: string, id: string, typeColumn: string | null): Text =>
  typeColumn === null
    ? opaqueText(`${literal(`${typename}:`)} || ${id}`, typename.length + 1 + idLength)
    : opaqueText(`${typeColumn} || ':' || ${id}`, Infinity);

/** A cursor, as the Prisma plugin writes it. */
export const cursorText = (id: string): Text => opaqueText(`'GPC:S:' || ${id}`, 6 + idLength);

export const objectText = (fields: readonly (readonly [key: string, text: Text])[]): Text => [
  '{',
  ...fields.flatMap(([key, text], i) => [`${i === 0 ? '' : ','}"${key}":`, ...text]),
  '}',
];

/** The items that a subselect gives, in its order. @param item one of them, of the rows that are selected from */
export const listText = (item: Text, from: string): Text =>
  joinedText(item, (one, between) => `array_to_string(array(select ${one} from ${from}), ${between})`);

/**
 * A list of items. Constants around each of them are written by what stands between two, where no item is nothing else.
 * @param join SQL that joins items by a separator; no items: null or nothing
 */
export function joinedText(item: Text, join: (one: string, separator: string) => string): Text {
  const parts = merged(item);
  const last = parts.findLastIndex((part) => typeof part === 'string' || 'sql' in part);
  const [head, tail] = [parts[0], parts[last]];
  const isSome = parts.some((part) => typeof part === 'object' && 'isSome' in part);
  if (!isSome || typeof head !== 'string' || typeof tail !== 'string')
    return ['[', { sql: join(textSql(item), literal(',')) }, ']'];
  const joined = join(textSql(parts.filter((_, i) => i > 0 && i !== last)), literal(`${tail},${head}`));
  return ['[', { sql: `${literal(head)} || nullif(${joined}, '') || ${literal(tail)}` }, ']'];
}
