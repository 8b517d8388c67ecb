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

/** The text as JavaScript writes it; null where it cannot be told so. */
export function finished(text: string): string | null {
  if (text.includes(refusal)) return null;
  const [head = '', ...rest] = text.split(begin);
  const rewritten = rest.map((part) => {
    const at = part.indexOf(end);
    return JSON.stringify(JSON.parse(part.slice(0, at))) + part.slice(at + 1);
  });
  return head + rewritten.join('');
}

/** A text of JSON: constants, and SQL between them whose values PostgreSQL writes as they are in JSON. */
export type Text = readonly (string | { readonly sql: string })[];

export const sqlText = (sql: string): Text => [{ sql }];
export const refusalText = sqlText('chr(1)');
export const nullText: Text = ['null'];

/** Most arguments that a function has in PostgreSQL are 100. */
const most = 90;

/** One SQL value of the type text. Null is written as nothing. */
export function textSql(text: Text): string {
  const parts: string[] = [];
  let constant = '';
  for (const part of text) {
    if (typeof part === 'string') {
      constant += part;
      continue;
    }
    if (constant !== '') parts.push(literal(constant));
    constant = '';
    parts.push(part.sql);
  }
  if (parts.length === 0) return literal(constant);
  if (constant !== '') parts.push(literal(constant));
  return parts.length === 1 ? `(${String(parts[0])})::text` : concatenated(parts);
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

const rewritten = (sql: string): Text => [{ sql: 'chr(2)' }, { sql }, { sql: 'chr(3)' }];

/** What stands for null where it is, or is not, allowed. */
export const absent = (type: GraphQLOutputType): Text => (isNonNullType(type) ? refusalText : nullText);

/** A column's value, for a field of this type. */
export function valueText(type: GraphQLOutputType, column: Column, sql: string, mayMiss: boolean): Text {
  const present = presentText(getNullableType(type), column, sql);
  // A null inside of the JSON is null for GraphQL, too.
  const text =
    column.type === 'Json' && isNonNullType(type) ? chosen(`${sql} = 'null'`, refusalText, present) : present;
  return column.isRequired && !mayMiss ? text : chosen(`${sql} is null`, absent(type), text);
}

function presentText(type: GraphQLOutputType, column: Column, sql: string): Text {
  if (isListType(type)) {
    const item = getNullableType(type.ofType as GraphQLOutputType);
    // Prisma reads a list that is null as an empty one.
    if (column.isList && column.type === 'String' && isScalarType(item) && item.name === 'String')
      return chosen(
        `array_position(${sql}, null) is not null`,
        refusalText,
        sqlText(`coalesce(to_json(${sql}), '[]')`),
      );
    return refuse('a list of values');
  }
  if (column.isList) refuse('a list in a single value');
  if (isEnumType(type)) {
    if (!column.isEnum && column.type !== 'String') refuse(`${column.type} as ${type.name}`);
    // The names of Prisma's enums are those of PostgreSQL's.
    const all = (enums as Readonly<Record<string, Readonly<Record<string, string>> | undefined>>)[column.type];
    if (column.isEnum && all && Object.values(all).every((one) => type.getValue(one)?.value === one))
      return ['"', { sql }, '"'];
    const names = type
      .getValues()
      .map(({ name, value }) => `when ${literal(String(value))} then ${literal(`"${name}"`)}`);
    return sqlText(`case ${sql}::text ${names.join(' ')} else ${textSql(refusalText)} end`);
  }
  if (!isScalarType(type)) return refuse('a column as an object');
  switch (`${column.type} as ${type.name}`) {
    case 'String as String':
    case 'String as ID':
      return sqlText(`to_json(${sql})`);
    case 'Int as Int':
    case 'Int as Float':
      return sqlText(sql);
    case 'Boolean as Boolean':
      return booleanText(sql);
    case 'Float as Float':
      return sqlText(`case when ${sql} = 0 then '0' when abs(${sql}) >= 0.0001 and abs(${sql}) < 1e15 then ${sql}::text
        when abs(${sql}) < 'Infinity' then ${textSql(rewritten(sql))} else ${textSql(refusalText)} end`);
    case 'BigInt as BigInt':
      return chosen(`${sql} between ${Number.MIN_SAFE_INTEGER} and ${Number.MAX_SAFE_INTEGER}`, [{ sql }], ['"', { sql }, '"']); // prettier-ignore
    case 'DateTime as DateTime':
      // What has more, or less, than four digits in its year is written otherwise.
      return chosen(
        `${sql} >= '0001-01-01Z' and ${sql} < '10000-01-01Z'`,
        sqlText(`to_char(${sql} at time zone 'UTC', '\\"YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\\"')`),
        refusalText,
      );
    case 'Json as JSON':
      return rewritten(sql);
    default:
      return refuse(`${column.type} as ${type.name}`);
  }
}

export const booleanText = (sql: string): Text => sqlText(`(${sql})::text`);

const longestOnOneLine = 57;

/** The text of an opaque id, which PostgreSQL breaks into lines. */
function opaqueText(sql: string, length: number): Text {
  const encoded = `encode(convert_to(${sql}, 'UTF8'), 'base64')`;
  return ['"', { sql: length > longestOnOneLine ? `translate(${encoded}, E'\\n', '')` : encoded }, '"'];
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
export const listText = (item: Text, from: string): Text => [
  '[',
  { sql: `array_to_string(array(select ${textSql(item)} from ${from}), ',')` },
  ']',
];
