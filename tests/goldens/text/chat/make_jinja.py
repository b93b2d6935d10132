"""Writes jinja.json: what Jinja2, set up as transformers does, makes of small templates. Needs jinja2 (3.1.6)."""

import datetime
import json
import pathlib

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

VARIABLES = {
    "s": "Grüße, Welt! </think> end", "u": "日本</think>語", "e": "", "t": "tab\t\x1f\"q\"\\",
    "l": [1, 2.5, "a'b", None, True], "m": {"b": 1, "a": {"x": []}, "items": 3},
    "f": 1e22, "g": 0.00001, "h": 100.0, "n": None, "big": 123456789012,
}
TEMPLATES = [
    '{{ l }} {{ m }} {{ f }} {{ g }} {{ h }} {{ n }} {{ true }} {{ big }}',
    "{{ l|string }}|{{ m|string|length }}|{{ 'x' ~ h ~ n ~ true }}",
    "{{ m|tojson }}{{ l|tojson(indent=2) }}{{ m|tojson(indent=4) }}{{ m|tojson(separators=(',', ':')) }}{{ u|tojson(ensure_ascii=True) }}{{ m|tojson(sort_keys=true) }}",
    '{{ f|tojson }} {{ g|tojson }} {{ h|tojson }} {{ t|tojson }} {{ []|tojson(indent=2) }} {{ {}|tojson(indent=0) }} {{ [1]|tojson(indent=0) }}',
    "{{ u.find('</think>') }} {{ u[u.find('</think>'):] }} {{ u.split('</think>')[-1] }} {{ u.rfind('zz') }}",
    '{% for x in [1,2,3,4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}',
    '{% generation %}\nhi{% set x = 1 %}{% endgeneration %}\n{{ x is defined }}',
    '{%- generation -%} a {%- endgeneration -%} b',
    '{# {% generation %} #}{% raw %}{% for x in n %}{% endraw %}',
    '{% for x in n %}a{% endfor %}',
    '{% for x in nothing %}a{% else %}none{% endfor %}',
    "{% for k, v in m.items() if k != 'a' %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in m %}{{ loop.index }}{{ k }}{{ ', ' if not loop.last }}{% endfor %}",
    '{% for x in ([1,2] if true else [3]) %}{{ x }}{% endfor %}{% for x in l[1:3] %}{{ loop.length }}{{ x }}{% endfor %}',
    '{% for x in [[1],[2,[3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}',
    '{{ s is sequence }}{{ m is sequence }}{{ l[1:] is sequence }}{{ nothing is sequence }}{{ n is iterable }}{{ s is iterable }}{{ n is sequence }}{{ 3 is iterable }}{{ l is mapping }}{{ m is mapping }}',
    "{{ s.upper() }}{{ s.title() }}{{ e.isdigit() }}{{ '12'.isdigit() }}{{ ' a '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'ab'.removeprefix('a') }}|{{ 'ab'.removesuffix('b') }}|{{ 'a-b-c'.rsplit('-', 1) }}|{{ 'a=b=c'.partition('=')[2] }}",
    "{{ t.strip() }}|{{ t|trim }}|{{ '\\x1f a'|trim }}",
    "{{ 'a' + n }}",
    "{{ 'a' + nothing }}",
    '{{ nothing.x }}',
    "{{ messages[0]['role'] }}",
    "{{ messages[0] }}|{{ m.zz }}|{{ m['zz'] is undefined }}",
    "{{ raise_exception('no ' ~ 'way') }}",
    "{% macro f(a, b=2) %}{{ a }}-{{ b }}{{ raise_exception('in macro') if a == 9 }}{% endmacro %}{{ f(1) }}{{ f(1, b=3) }}{{ f(9) }}",
    "{{ strftime_now('%d %B %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S') }} {{ strftime_now('%-d %b %y %A %j') }}",
    '{% set ns = namespace(x=1, y=[]) %}{% for i in [1,2] %}{% set ns.x = ns.x + i %}{% set ns.y = ns.y + [i] %}{% endfor %}{{ ns.x }}{{ ns.y }}',
    '{{ l[::-1] }}{{ l[-1] }}{{ s[:3] }}{{ s[-3:] }}{{ s[::-1][:3] }}',
    "{{ dict(a=1, b='x') }}{{ [1,2]|join(', ') }}{{ l|join('-') }}{% for k, v in m|dictsort %}{{ k }}{{ v }}{% endfor %}{% for k, v in m|items %}{{ k }}{% endfor %}",
    '{{ 7 // 2 }} {{ 7 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 8 / 2 }} {{ 1.5 + 1 }}',
    "{{ 'a' in n }}",
    "{{ s | replace('Welt', 'World') | upper | length }}{{ '%s and %d' | format('x', 3) }}{{ '{} {}'.format(1, 'b') }}",
    "{{ l | selectattr('x', 'defined') | list | length }}{{ [1,2,3] | map('string') | join }}{{ [{'a':1},{'a':2}] | map(attribute='a') | list }}{{ [1,2,3]|select('odd')|list }}{{ [1,2,3]|reject('equalto', 2)|list }}",
    "{{ none|default('d') }}{{ nothing|default('d') }}{{ ''|default('d', true) }}{{ n|default('d', true) }}",
    '  {% if true %}\n  x\n  {% endif %}\ny\n',
    "{{- ' a' -}}   b   {{- 'c' }}",
    '{% set x %}\nblock\n{% endset %}[{{ x }}]{{ [1, [2, \'x\']] | string }}{{ "it\'s" | list }}',
    "{{ (1, 2)[1] }}{{ [1,2,3]|last }}{{ [3,1]|sort }}{{ [1,2]|first }}{{ 'ab'|capitalize }}{{ [1,1]|unique|list }}{{ [1,2]|sum }}{{ [1,2]|max }}",
    "{{ 'x' * 3 }}{{ 3|string + '4' }}{{ '3'|int + 1 }}{{ 2.7|int }}{{ 2.567|round(1) }}{{ 5|float }}{{ true|int }}",
    "{{ 1 if false }}{{ 'a' if n is none else 'b' }}{{ not n }}{{ n is not none }}{{ (n or 'z') }}{{ m.get('q', 'w') }}{{ m.get('b') }}{{ m.get('q') }}",
    "{{ 'a\\nb\\n\\nc'.splitlines() }}{{ 'a b  c'.split() }}{{ 'a,b'.split(',') }}{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('c','d')) }}{{ 'abcabc'.count('b') }}{{ ','.join(['a','b']) }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{{ range(3)|list }}{{ loop is defined }}{{ 1 is number }}{{ 1.0 is float }}{{ true is boolean }}{{ 's' is string }}{{ 1 is eq 1 }}",
    '{{ undefined_fn() }}',
    '{% call(x) foo() %}{% endcall %}',
    "{%- for m2 in [{'role':'user','content':[{'type':'text','text':'hi'}]}] -%}{{ m2.content[0].text }}{{ m2['content']|length }}{{ m2.role == 'user' and m2.content is not string }}{%- endfor %}",
    '{{ "</s>" }}{{ \'<b>&"\' | e }}{{ \'<b>\' | safe }}{{ [1,2,3][1:] + [4] }}{{ [] + [] }}{{ not [] }}{{ {} == {} }}',
    "{{ 'é'|tojson }}{{ {'a': 'é', 'b': none, 'c': [true, false]}|tojson }}",
    '{{ [1, 2, 3] | tojson | length }}{{ \'abc\' | list }}{{ \'a\' < \'b\' }}{{ [1,2] == [1,2] }}{{ "a" ~ [1] }}{{ \'q\' ~ 1.5 }}',
    "{{ [][::-1] }}|{{ ''[::-1] }}|{{ u[::-1] }}{{ l[::-1][0] }}{{ '[::-1]' }}{% for x in [][::-1] %}x{% endfor %}",
    "{% for x in l[::-1] if x %}{{ loop.index }}{{ x }}{% endfor %}{{ n[::-1] }}",
    "{{ 'ü' in s }}{{ 'b' in m }}{{ 3 in l }}{{ 2.5 in l }}{{ n in l }}",
]


class Generation(jinja2.ext.Extension):
    """{% generation %}, as transformers has it but for its book-keeping."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("said"), [], [], body).set_lineno(line)

    def said(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def main():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = datetime.datetime(2026, 1, 15, 12, 0, 0).strftime
    cases = []
    for template in TEMPLATES:
        case = {"template": template}
        try:
            case["text"] = env.from_string(template).render(
                messages=[], tools=None, documents=None, add_generation_prompt=True, **VARIABLES)
        except Exception as e:  # noqa: BLE001
            case["error"], case["error_type"] = str(e), type(e).__name__
        cases.append(case)
    out = {"variables": VARIABLES, "cases": cases}
    path = pathlib.Path(__file__).with_name("jinja.json")
    path.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")


main()
