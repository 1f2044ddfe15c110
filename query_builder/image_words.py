"""What Wikipedias in other languages call files, categories and the options of images.

A dump tells the names of its namespaces, but not their other names (``Bild`` beside ``Datei``)
nor the words of its image options (``mini``, ``rechts``). They are MediaWiki's own, from the
``$namespaceAliases`` and the ``img_*`` magic words of ``languages/messages/Messages*.php``.
English is understood by every wiki and is in no line here.
"""

from __future__ import annotations

from typing import NamedTuple


class ImageWords(NamedTuple):
    """Names and words of a language, separated by spaces; a low line stands for a space or one."""

    files: str  # other names of the namespace of files
    options: str  # that stand alone: or with a number or a value, "hochkant=1.2"
    keys: str  # that always have a value: "verweis=..."
    categories: str = ""  # other names of their namespace


ENGLISH = ImageWords(
    "File Image",
    "thumb thumbnail right left none center centre frame framed enframed frameless upright border "
    "baseline sub super sup top text-top middle bottom text-bottom",
    "alt class end lang link lossy page start",
    "Category",
)

#: By the language that ``<mediawiki xml:lang>`` tells.
IMAGE_WORDS = {
    "ar": ImageWords(
        "ملف صورة",
        "تصغير يمين يسار بدون بلا مركز إطار بإطار لاإطار معدول حدود خط_أساسي فرعي سوبر سب أعلى "
        "نص_أعلى وسط أسفل نص_أسفل",
        "بديل رابط رتبة صفحة لغة وصلة",
    ),
    "ca": ImageWords(
        "Imatge",
        "miniatura dreta esquerra cap centrat marc sense_marc redreçat vora línia_de_base dalt "
        "dalt-text mitjà baix baix-text",
        "enllaç idioma llengua pàgina redreça",
    ),
    "cs": ImageWords("Obrázek Obrázok", "náhled vpravo vlevo žádné střed rám bezrámu okraj",
                     "jazyk odkaz strana třída"),
    "da": ImageWords("Billede Fil", "miniature højre venstre ingen ramme rammeløs centreret", ""),
    "de": ImageWords(
        "Bild",
        "mini miniatur rechts links ohne zentriert gerahmt rahmenlos hochkant rand grundlinie tief "
        "tiefgestellt hoch hochgestellt oben text-oben mitte unten text-unten",
        "alternativtext klasse seite sprache verweis",
    ),
    "es": ImageWords(
        "Imagen",
        "miniaturadeimagen miniatura mini derecha der dcha izquierda izda izq no ninguna ninguno "
        "nada centro centrado centrada centrar marco enmarcado enmarcada sinmarco sin_enmarcar "
        "sinenmarcar borde arriba medio abajo",
        "enlace idioma pagina página vinculo vínculo",
        "CAT",
    ),
    "fa": ImageWords(
        "تصویر",
        "بندانگشتی انگشتی انگشتدان راست چپ هیچ وسط قاب بی‌قاب بیقاب بی_قاب ایستاده حاشیه همکف زیر "
        "زبر بالا متن-بالا میانه پایین متن-پایین",
        "جایگزین زبان صفحه پیوند کلاس",
    ),
    "fi": ImageWords(
        "Kuva",
        "pienoiskuva pienois oikea vasen tyhjä keski keskitetty kehys kehystetty kehyksetön "
        "yläoikea reunus perustaso alaindeksi yläindeksi ylös ylhäällä keskellä alas alhaalla",
        "linkki sivu",
    ),
    "fr": ImageWords(
        "",
        "vignette droite gauche néant neant centré cadre encadré encadre sans_cadre non_encadré "
        "non_encadre redresse bordure base ligne-de-base indice ind exposant exp haut haut-texte "
        "haut-txt milieu bas bas-texte bas-txt",
        "classe langue lien",
    ),
    "gl": ImageWords("Imaxe", "miniatura dereita esquerda ningún centro borde bordo", "páxina"),
    "he": ImageWords("תמונה", "ממוזער ימין שמאל ללא מרכז ממוסגר מסגרת", "דף קישור"),
    "hu": ImageWords(
        "Kép",
        "bélyegkép bélyeg miniatűr jobb jobbra bal balra semmi közép középre keretezett keretes "
        "keretben kerettel keretnélküli fennjobbra keret alapvonal ai alsóindex fi felsőindex",
        "oldal",
    ),
    "id": ImageWords(
        "Gambar",
        "jmpl jempol mini miniatur ka kanan ki kiri nir tanpa pus pusat bing bingkai nirbing "
        "tanpabingkai lurus tegak tepi batas gada garis_dasar upa",
        "hal halaman",
    ),
    "is": ImageWords("", "hægri vinstri engin miðja undir yfir efst neðst texti-neðst", ""),
    "it": ImageWords(
        "Immagine",
        "miniatura min destra sinistra nessuno centro riquadrato incorniciato senza_cornice "
        "verticale bordo pedice apice sopra metà sotto",
        "pagina",
    ),
    "ja": ImageWords(
        "ファイル 画像",
        "サムネイル 右 左 なし 無し 中央 フレーム フレームなし 右上 境界 ボーダー 下線 "
        "ベースライン 下付き 上付き 上端 文上端",
        "代替画像 ページ",
    ),
    "ko": ImageWords(
        "그림",
        "섬네일 썸네일 오른쪽 왼쪽 없음 가운데 프레임 프레임없음 테두리 밑줄 아래첨자 위첨자 위 "
        "중간 아래",
        "문서 링크",
    ),
    "nl": ImageWords(
        "Afbeelding",
        "miniatuur rechts links geen gecentreerd omkaderd kaderloos rechtop rand grondlijn boven "
        "tekst-boven midden beneden tekst-beneden",
        "klasse koppeling pagina taal verwijzing",
    ),
    "nb": ImageWords("Bilde", "miniatyr mini høyre høgre venstre ingen sentrum ramme ramma "
                     "rammeløs rammelaus", "lenke lenkje side språk"),
    "pl": ImageWords("Grafika", "mały prawo lewo brak centruj ramka bezramki bez_ramki skala "
                     "skaluj tło góra środek dół", "strona"),
    "pt": ImageWords(
        "Arquivo Ficheiro Imagem",
        "miniaturadaimagem miniatura direita esquerda nenhum centro commoldura comborda semmoldura "
        "semborda superiordireito borda linhadebase acima meio abaixo",
        "página ligação",
    ),
    "ro": ImageWords(
        "Imagine",
        "miniatura mini dreapta stanga nu centru cadru faracadru dreaptasus chenar linia_de_bază "
        "indice exponent sus",
        "pagina",
    ),
    "ru": ImageWords(
        "Изображение",
        "мини миниатюра справа слева без центр обрамить безрамки сверхусправа граница основание "
        "под над",
        "страница",
    ),
    "sr": ImageWords(
        "Слика Slika Datoteka",
        "мини умањено десно д лево л без н центар ц оквир рам безоквира без_оквира безрама "
        "без_рама усправно ивица оивичено основа под супер врх врх_текста средина дно "
        "средина_текста",
        "алт веза страна страница",
        "Kategorija",
    ),
    "sv": ImageWords(
        "Bild",
        "miniatyr mini höger vänster ingen centrerad ram inramad ramlös stående kantlinje baslinje "
        "ned upp topp text-topp mitten botten text-botten",
        "länk sida",
    ),
    "tr": ImageWords(
        "Resim",
        "küçükresim küçük sağ sol yok orta çerçeveli çerçeve çerçevesiz dikey sınır tabançizgisi "
        "altçizgi alt üst üs tepe tavan metin-tavan metin-tepe merkez taban metin-taban",
        "bağlantı sayfa sınıf",
    ),
    "uk": ImageWords(
        "Зображення",
        "міні мініатюра мини миниатюра праворуч справа ліворуч слева без центр обрамити рамка "
        "обрамить безрамки зверхуправоруч сверхусправа межа границя граница основа основание під "
        "над зверху",
        "сторінка страница",
    ),
    "vi": ImageWords("Hình", "nhỏ phải trái không giữa khung đứng", "liên_kết trang"),
    "zh": ImageWords(
        "F 文件 图像 圖像 档案 檔案",
        "缩略图 縮圖 右 左 无 無 居中 置中 有框 无框 無框 右上 边框 邊框 基线 子 超 顶部 文字顶部 "
        "中间 底部 文字底部",
        "替代 替代文本 类 语言 链接 页数",
        "CAT 分类 分類",
    ),
}  # fmt: skip

#: Units of a width, in all languages: "220px".
PIXELS = "px пкс пк пискел п p piksel pik pk bod pixelů 像素 ピクセル 픽셀 پیکسل بك عن dp"
